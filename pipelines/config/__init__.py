"""Every key a user may set: read, checked and documented. Imports no torch."""
