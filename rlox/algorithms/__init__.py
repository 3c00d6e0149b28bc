"""The algorithms, one file each: losses as pure functions, the learner, the public class."""
