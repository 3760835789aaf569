"""The agent's hands: its folder on disk. The link and the trainer process are shared and live in ``host``."""
