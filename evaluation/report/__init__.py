"""The report of scores: an HTML page (`page`) and Markdown (`markdown`) with the same content."""
