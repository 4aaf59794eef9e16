"""Other people's trainers, one file each; each needs its package."""
