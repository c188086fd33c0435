"""Issues of a data set: its lists, images and labels."""
