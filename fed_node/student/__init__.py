"""The student: SM-lite, its losses, augmentation, training, evaluation, and its distillation from a teacher's soft labels."""
