"""What the pages that danlu writes share: a style sheet and pieces of HTML, escaped."""
