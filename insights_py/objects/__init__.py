"""The objects of an installation: compared with the frozen SQL, and mended."""
