"""The local process: answers programs on this machine, takes their examples, and keeps the score. Loopback alone.

It is a child of the agent, so that the agent stays small: the ML runtime is loaded here, and only when somebody first
asks. Laws: nothing listens beyond 127.0.0.1; a request has bounds in bytes, inputs and seconds; of a request neither
text nor label is ever logged.
"""
