"""What a cluster and a store offer and lack, before the first submission."""
