"""What is said below a table of the methods whose names don't say it, in this order."""

K_SAM = "K-SAM climbs and descends on the k of the batch with the highest loss"
NO_CLIMB = '"no climb" descends on the highest quarter without a climb'
RANDOM_SAM = "random-subset SAM climbs on a random quarter"
ESAM = "ESAM descends on the half whose loss rose most"
MOMENTUM = "Momentum-SAM climbs along past steps, without a gradient for it"
REMEMBERED = (
    "remembered methods (rem.) rank examples by the loss that they had when last used"
)

ORDER = (K_SAM, NO_CLIMB, RANDOM_SAM, ESAM, MOMENTUM, REMEMBERED)
