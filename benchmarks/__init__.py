"""Measurements that are no part of the library: how long a step takes, and what the README's tables say."""
