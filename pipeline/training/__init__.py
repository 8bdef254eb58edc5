"""The phases and their loops, and runs on disk that survive being killed."""
