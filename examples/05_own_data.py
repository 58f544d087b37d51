"""Train on data of your own: bring each conversation to a row, and the trainer checks and takes the rows."""

from evoemb import EvoEmbedding
from evoemb.training import EvoEmbeddingTrainer, EvoEmbeddingTrainingArguments

# What you have: tickets whose messages have names, and questions with the messages that answer them.
TICKETS = [
    {
        "messages": {"a1": "The app crashes on login.", "a2": "Reinstalling helped.", "a3": "4.2 crashes again."},
        "asked": {"Does the app work now?": ["a3"], "What helped at first?": ["a2"]},
    },
    {
        "messages": {"b1": "Please send it to Rome.", "b2": "The parcel is blue.", "b3": "I moved, send it to Oslo."},
        "asked": {"Where does the parcel go?": ["b3"], "Where did it go first?": ["b1"]},
    },
]

rows = []
for ticket in TICKETS:
    order = list(ticket["messages"])  # oldest first
    evidence = [[order.index(name) for name in names] for names in ticket["asked"].values()]
    rows.append({"turns": list(ticket["messages"].values()), "query": list(ticket["asked"]), "evidence": evidence})

model = EvoEmbedding("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
args = EvoEmbeddingTrainingArguments("own_model", max_steps=5, learning_rate=1e-3, report_to="none", save_strategy="no")
EvoEmbeddingTrainer(model, args, train_dataset=rows).train()
model.save_pretrained("own_model/final")

for hit in model.retrieve(rows[1]["turns"], "Where does the parcel go?", top_k=2):
    print(f"{hit['score']:.2f}  {rows[1]['turns'][hit['corpus_id']]}")
