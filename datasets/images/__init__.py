"""Images with class labels: MNIST, CIFAR, ImageNet and folders like it."""
