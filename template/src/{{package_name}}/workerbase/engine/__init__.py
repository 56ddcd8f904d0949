"""Decisions that all services share: when to retry, what to start next, what a failure says.

Pure: nothing here imports Redis, arq or click. May import `monitor`, `errors`, `types`.
"""
