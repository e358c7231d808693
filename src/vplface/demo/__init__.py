"""Local web page to compare two pictures, enrol people, search for them and read a training report."""
