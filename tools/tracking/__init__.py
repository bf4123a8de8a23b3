"""What programs that track a video share: windows, boxes, recordings and what they say."""
