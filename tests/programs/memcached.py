"""Values go in and come out as they were."""
import hashlib
import sys

import memcache

client = memcache.Client([f"127.0.0.1:{sys.argv[1]}"], server_max_value_length=1 << 20)
for i in range(1000):
    assert client.set(f"small-{i}", "v" * (i % 300))
print("small", sum(len(client.get(f"small-{i}")) for i in range(1000)))
many = {f"many-{i}": bytes([i % 256]) * 20_000 for i in range(200)}
assert client.set_multi(many) == []
got = client.get_multi(list(many))
print("many", hashlib.sha256(b"".join(got[key] for key in sorted(many))).hexdigest())
for i in range(20):
    assert client.set(f"large-{i}", bytes([i]) * 900_000)
print("large", hashlib.sha256(b"".join(client.get(f"large-{i}") for i in range(20))).hexdigest())
