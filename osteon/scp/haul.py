"""What one association brings: its instances on their way to the intake, and how many they were.

C-STORE commands enter from the messages; receptions leave. Counted by what was answered.
"""

from osteon.pipeline.intake import Intake
from osteon.pipeline.table.associations import Brought
from osteon.pipeline.table.reception import Origin
from osteon.scp.command import Command
from osteon.scp.store import Answer, Reception


class Haul:
    """The instances of one association.

    Parameters
    ----------
    intake : Intake
        Makes them durable.
    origin : Origin
        The association.
    instance_bytes_max : int
        A longer data set is refused.

    Attributes
    ----------
    origin : Origin
        As given.
    brought : Brought
        What was answered so far.
    is_storing : bool
        Whether an instance is on its way.
    """

    def __init__(self, intake: Intake, origin: Origin, instance_bytes_max: int) -> None:
        self._intake = intake
        self.origin = origin
        self._instance_bytes_max = instance_bytes_max
        self.brought = Brought()
        self.is_storing = False

    def begin(self, command: Command, transfer_syntax_uid: str) -> Reception:
        """Begin to take the instance of a C-STORE-RQ."""
        uid = command.sop_instance_uid_text
        self.is_storing = True
        return Reception(
            lambda: self._intake.begin(
                self.origin,
                sop_class_uid=command.sop_class_uid_text,
                sop_instance_uid=uid,
                transfer_syntax_uid=transfer_syntax_uid,
            ),
            self.origin,
            uid,
            self._instance_bytes_max,
        )

    def count(self, answer: Answer) -> None:
        """Count an instance by what is answered."""
        self.is_storing = False
        stored = answer.stored
        if stored is None:
            self.brought.refuse(answer.status, answer.why)
        else:
            self.brought.store(stored.series_instance_uid, duplicate=stored.duplicate)
