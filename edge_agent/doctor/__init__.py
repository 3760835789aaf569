"""What is wrong with a device, hop by hop, and how to put it right: ``edgefold agent doctor``."""
