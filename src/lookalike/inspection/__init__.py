"""What is wrong with a data set: its lists, its pictures, its labels."""
