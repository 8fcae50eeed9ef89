"""All faults, by topic: importing the modules enters them into the list."""

from tests.faults import damage, disks, edits, processes, records

TOPICS = {module.TOPIC: module for module in (processes, disks, damage, edits, records)}
