"""What is asked about outputs: VNN-LIB files and specification matrices."""
