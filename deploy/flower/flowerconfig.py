"""Flower's configuration: ``COLONY_NAME=… celery -A colony.flower.app flower --conf=flowerconfig.py``.

It is the one that ``colony flower`` uses, as a file of your own: add any of Flower's options below. It
is set by COLONY_FLOWER_… (see ``colony/flower/settings.py``), and refuses to start without credentials:
COLONY_FLOWER_BASIC_AUTH_FILE names a file with user:password in each line.
"""

from colony.flower.config import *  # noqa: F403
