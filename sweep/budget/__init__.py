"""What a sweep has cost, what is in flight, what it may still spend: in A100-hours, core-hours, money and energy."""
