"""Files that older versions wrote."""
