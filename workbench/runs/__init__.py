"""The runs of a workspace: what is known of them, their list, and how they compare."""
