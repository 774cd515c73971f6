"""What a sweep file may say, for editors (`sweep schema`) and readers (docs/settings.md): made of the code itself."""
