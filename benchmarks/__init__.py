"""One question a file: prints JSON, draws a picture, names the peers measured in the same run."""
