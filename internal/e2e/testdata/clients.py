"""Reads the triplets, replaces the document of one of them, waits for what follows, and queries the collections.

clients.py KAFKA QDRANT, both host:port.
"""
import json
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer
from qdrant_client import QdrantClient

kafka, qdrant = sys.argv[1:3]

consumer = Consumer({
    "bootstrap.servers": kafka,
    "log_level": 4,
    "group.id": f"clients-{uuid.uuid4()}",
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
})
consumer.subscribe(["triplets"])


def poll(until, what):
    """Polls until a function of the messages so far is true."""
    deadline = time.time() + 300
    while time.time() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            if until(None):
                return
            continue
        if message.error():
            raise SystemExit(f"{what}: {message.error()}")
        if until(message):
            return
    raise SystemExit(f"{what}: nothing within 300 s")


view = {}


def first_load(message):
    if message is None:
        return len(view) > 0
    if message.value() is None:
        view.pop(message.key(), None)
    else:
        view[message.key()] = json.loads(message.value())
    return False


poll(first_load, "reading the triplets")
print(len(view), "triplets")

key, triplet = next((k, t) for k, t in view.items() if t["rank"] == 1)
document = triplet["negative"]["id"]
producer = Producer({"bootstrap.servers": kafka, "log_level": 4})
start = time.time()
producer.produce("documents", key=document, value=json.dumps({"id": document, "text": "Zebras graze quietly on the moon."}))
producer.flush(300)


def replaced(message):
    if message is None or message.key() != key:
        return False
    value = message.value()
    return value is None or json.loads(value)["negative"]["version"] != triplet["negative"]["version"]


poll(replaced, f"waiting for the triplet {key} to change")
print(f"the triplet changed {1000 * (time.time() - start):.0f} ms after its negative was replaced")
consumer.close()

host, port = qdrant.split(":")
client = QdrantClient(host=host, grpc_port=int(port), prefer_grpc=True, check_compatibility=False)
collections = [c.name for c in client.get_collections().collections]
print("collections", collections)
assert any(c.startswith("documents-") for c in collections) and any(c.startswith("queries-") for c in collections), collections
points, _ = client.scroll("documents", limit=3, with_vectors=True, with_payload=True)
assert len(points) == 3, points
hits = client.query_points("documents", query=points[0].vector, limit=2, with_payload=True).points
assert hits[0].id == points[0].id and abs(hits[0].score - 1) < 1e-3, (hits, points[0].id)
print("the nearest to", points[0].payload["doc_id"], "are", [h.payload["doc_id"] for h in hits])
