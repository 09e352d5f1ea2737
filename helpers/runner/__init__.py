"""Running notebooks: one by one through papermill, the gates between them, the screen, `begin`."""
