//! The tables in the log's schema that say of read models on the server which builds there are, and how far each is. They are made with
//! the first model.

/// What the server says to a commit of a transaction that millstream has not brought to its end.
pub(super) const IS_UNDER_WAY: &str = "ZM001";

/// The owner of a build that the owner of its stream writes. Another number is that of a handle on demand, or of a rebuild.
pub(super) const OWNED_WITH_STREAM: i64 = 0;
/// The owner of a build that nobody is to write any more.
pub(super) const OWNED_BY_NOBODY: i64 = -1;

/// The list is apart from what moves with every transaction: to let a build serve waits for no transaction of another one.
pub(super) const TABLES: &str = r#"
CREATE TABLE millstream_model_build (
    build bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    -- The schema of its tables.
    namespace text NOT NULL UNIQUE,
    -- 'beside' the one that serves, 'serving', or 'retired': its schema is to be removed.
    state text NOT NULL CHECK (state IN ('beside', 'serving', 'retired')),
    created_at bigint NOT NULL
);
CREATE UNIQUE INDEX model_build_serving ON millstream_model_build (name) WHERE state = 'serving';
CREATE INDEX model_build_name ON millstream_model_build (name, version);
CREATE TABLE millstream_model (
    build bigint PRIMARY KEY REFERENCES millstream_model_build ON DELETE CASCADE,
    log_id text NOT NULL,
    query text NOT NULL,
    schema text NOT NULL,
    -- Everything up to here that the query selects is applied, set aside, or lacking.
    position bigint NOT NULL,
    -- Who writes it: 0, whoever owns its stream; -1, nobody any more; else one handle on demand, or one rebuild.
    owner bigint NOT NULL,
    -- Where the rebuild ended that made it; 0: it was kept from the first event on.
    rebuilt_through bigint NOT NULL,
    -- A transaction of its projection is under way: nobody else ever sees that it is.
    is_applying boolean NOT NULL,
    updated_at bigint NOT NULL
) WITH (fillfactor = 50);
-- Dead letters that were applied later, by their first event, so that none is applied twice.
CREATE TABLE millstream_model_retried (
    build bigint NOT NULL REFERENCES millstream_model_build ON DELETE CASCADE,
    first_sequence bigint NOT NULL,
    PRIMARY KEY (build, first_sequence)
);
-- Dead letters that a rebuild could not apply either.
CREATE TABLE millstream_model_lacking (
    build bigint NOT NULL REFERENCES millstream_model_build ON DELETE CASCADE,
    first_sequence bigint NOT NULL,
    PRIMARY KEY (build, first_sequence)
);
-- What was asked of read models, also from other processes, and what became of it.
CREATE TABLE millstream_model_request (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    request text NOT NULL,
    -- 'asked', 'begun', 'cancelled' while it is under way, 'done' or 'failed'.
    state text NOT NULL,
    error text,
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    events_per_second double precision NOT NULL DEFAULT 0,
    updated_at bigint NOT NULL
);
CREATE INDEX model_request_name ON millstream_model_request (name, number);
CREATE INDEX model_request_asked ON millstream_model_request (number) WHERE state = 'asked';
-- Whatever a projection does, what it wrote is not committed without the position behind it.
CREATE FUNCTION refuse_foreign_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_under_way boolean;
BEGIN
    EXECUTE format('SELECT is_applying FROM %I.millstream_model WHERE build = $1', TG_TABLE_SCHEMA)
        INTO is_under_way USING NEW.build;
    IF is_under_way THEN
        RAISE EXCEPTION 'the transaction of a read model is ended by millstream alone' USING ERRCODE = 'ZM001';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER model_is_at_its_end AFTER INSERT OR UPDATE ON millstream_model
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.is_applying) EXECUTE FUNCTION refuse_foreign_end();
"#;
