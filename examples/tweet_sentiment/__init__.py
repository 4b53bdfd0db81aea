"""Whether a tweet is for or against: what is cheap, fast and right are different programs here."""
