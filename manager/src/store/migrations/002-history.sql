-- What became of instances, one row a change.
CREATE TABLE instance_changes (change INTEGER PRIMARY KEY, instance INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT);
CREATE INDEX instance_changes_by_instance ON instance_changes (instance, at_ms);
CREATE INDEX instances_ended ON instances (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX instances_by_node ON instances (node, created_ms);
