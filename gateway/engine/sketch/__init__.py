"""From words to sketches: icons found, dyed and placed on sheets."""
