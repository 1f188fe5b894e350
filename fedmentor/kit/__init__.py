"""The kit: one archive with everything that a hospital's IT needs to join a federation, made by the registrar, checked at the site.

The unit for systemd and the sample of the settings beside this module are the only copies; ``deploy/systemd`` refers to them.
"""
