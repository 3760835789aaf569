"""Foundation-model families, adapters, tasks and sample data. torch lives here and in ``export`` only."""
