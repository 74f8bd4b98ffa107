"""What of detections is counted beside their average precision."""
