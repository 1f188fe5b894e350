"""FedMentor: federated learning for medical image segmentation that starts from a foundation model."""

__version__ = "0.1.0"
