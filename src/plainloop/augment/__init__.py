"""What is done to training images: whole batches on the device, single images in the workers."""
