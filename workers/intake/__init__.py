"""Intake: what foreign Celery clients send becomes accepted workers: queue → message → tasks → taker."""
