"""Long work in units that many processes share: what a job is, where its records are kept, who makes which unit."""
