"""The site node: a hospital's data, the student, local training, and the session with the coordinator."""
