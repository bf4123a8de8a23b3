"""SiamFC tracking: geometry of crops and boxes, the tracker, and the Siamese training task."""
