"""Names of every record and key that crosses the wire, once.

Answers do not, unless `predictor.population-weight` asks for their sums: a client sends texts'
hashes and feature sums (`describe`), parameters, loss and the reports that a strategy asks for
(`train`), sums of scores (`evaluate`), and one number per response that it is shown (`score`).
"""

# Message types.
DESCRIBE = "query.describe"
SCORE = "query.score"

# Records of a strategy's messages, as Flower's own strategies name them.
ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
UPDATE = "update"  # ArrayRecord of a train reply instead of arrays: a compressed update
SERVER_ROUND = "server-round"

# Added to every message by the population grid.
BRIEFING = "briefing"  # ConfigRecord: whom the message is for, and the round
GROUP = "group"
ROUND = "round"
RUN_KEY = "run-key"  # `RUN_KEY_PATTERN`: the same one when a run is resumed
RUN_KEY_PATTERN = r"[0-9a-f]{16}"
LEARNING_RATES = "learning-rates"
CLIPPING_NORM = "clipping-norm"  # of a train message, if updates are clipped
FEATURE_STATISTICS = "feature-statistics"  # ArrayRecord of a train or evaluate message
FEATURE_MEAN = "mean"
FEATURE_STD = "std"
SEEN_QUESTIONS = "seen-questions"  # ArrayRecord of an evaluate message
QUESTION_KEYS = "keys"
POPULATION = "population"  # ArrayRecord of evaluate and score messages: training groups' answers

# Reply to `describe`: one entry per group that the node holds.
HOLDINGS = "holdings"  # ConfigRecord
GROUPS = "groups"
ROLES = "roles"
FINGERPRINT = "encoder-fingerprint"
NUM_PARTITIONS = "num-partitions"  # Flower's node config key in simulations; 0 elsewhere
HELD_QUESTIONS = "held-questions"  # ArrayRecord: group's position to question keys
FEATURE_SUMS = "feature-sums"  # ArrayRecord: a row per training group of the node
SUM_COUNT = "count"
SUM_TOTAL = "total"
SUM_SQUARES = "squares"
ANSWERS = "answers"  # ArrayRecord, if `predictor.population-weight` asks: of each training group

# Metrics of a train reply.
NUM_EXAMPLES = "num-examples"
LOSS = "loss"

# Metrics of a train reply that a strategy asks for (`task.reports`): [sum, weight] of the
# parameters as they were sent, before training.
LOSS_BEFORE = "loss-before-training"
SCORE_BEFORE = "alignment-score-before-training"

# Metrics of an evaluate reply: [sum, weight] each, and sums over bins (`task.metrics`).
SCORES_ALL = "alignment-score"
SCORES_SEEN = "alignment-score-seen"
SCORES_NEW = "alignment-score-new"
TOP_OPTION = "top-option"
CALIBRATION = "calibration"
PERSONAL_SCORE = "personal-alignment-score"  # of the group's own parameters, if it keeps any

# Strategy's own settings that clients act upon.
PROXIMAL_MU = "proximal-mu"  # Flower's FedProx
REPORTS = "reports"  # names of the metrics that a train reply must have besides
PERSONAL = (
    "personal"  # how a group trains parameters of its own; in an evaluate message: score them
)
PERSONAL_MU = "personal-mu"

# Responses to score (`score`).
ROLLOUTS = "rollouts"  # ConfigRecord
PROMPTS = "prompts"
RESPONSES = "responses"
AGAINST = "against"  # texts that responses are compared with, one response's after another's
AGAINST_LENGTHS = "against-lengths"  # how many each has; both are left out where none has any
SCORES = "scores"  # ArrayRecord of the reply, and its only array: (responses,) float32

# Differential privacy.
WITHIN_NORM = "within-clipping-norm"  # put into a train reply by the server: 1 if not clipped, or 0
EPSILON = "epsilon"  # metric of a train reply: what unit question has cost the client so far
NOISY_SCORE = "noisy-alignment-score"  # metric of an evaluate reply instead of exact ones

# Secure aggregation: added to the records of Flower's SecAgg+ protocol in every train message.
SECURE_AGGREGATION = "secure-aggregation"  # ConfigRecord
CLIENT_ID = "client-id"  # under which the protocol knows the client
MAX_EXAMPLES = "max-examples"  # most examples of any client; 0: every client counts the same
ATTEMPT = "attempt"  # how often the round was tried before: noise differs by it
LEAST_SURVIVORS = "least-survivors"  # fewest clients in a sum that the server unmasks
