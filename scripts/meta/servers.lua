---@meta moonrise
--- What scripts can reach of other processes: servers by their own protocol, agents, probes.

---@class moonrise
local mr = {}

---@class Conn
local Conn = {}

---@class ConnOptions
---@field host? string address or socket directory
---@field port? integer
---@field dbname? string
---@field user? string
---@field passfile? string
---@field application_name? string
---@field options? string server settings, as libpq's options
---@field sslmode? string
---@field target_session_attrs? string
---@field connect_timeout_ms? number default 5000, of the whole attempt
---@field [string] any any other libpq keyword
--- Host names are looked up without blocking; all their addresses are tried.

--- Connects to a server; waits.
---@param options ConnOptions
---@return Conn? conn
---@return Error? err
function mr.connect(options) end

--- Runs SQL; waits. Parameters ($1 ...) are text, numbers, booleans or mr.null. Rows are tables by
--- column name; integers up to 2^53, floats, numerics, booleans and pg_lsn arrive as numbers and
--- booleans, all else as text, NULL as nil. `rows.command` is the command tag. `params.n` counts
--- parameters that end in nil. Without parameters several statements may be given.
---@param sql string
---@param params? any[]
---@param options? {timeout_ms: number?}  default 10000
---@return table[]? rows
---@return Error? err
function Conn:query(sql, params, options) end

--- Calls fn(err), in a task of its own, once when the idle session breaks.
---@param fn function
function Conn:on_lost(fn) end

---@return boolean
function Conn:is_open() end

---@return integer
function Conn:backend_pid() end

---@return integer
function Conn:server_version() end

function Conn:close() end

--- Reads a libpq connection string: keywords and values, or a URI.
---@param text string
---@return ConnOptions? options
---@return Error? err code "argument"
function mr.conninfo(text) end

---@class ReceiveOptions
---@field conn ConnOptions where from; its application_name may be none of a mirror's
---@field directory string where the segments go; it is there
---@field slot? string it is there, and none of a mirror's
---@field end_lsn? number ends when more than this is there
---@field compress? string "gzip" or "lz4"
---@field level? integer
---@field sync? boolean whole segments are flushed; default true
---@field synchronous? boolean each byte is flushed, and told, as soon as nothing more is at hand
---@field never_synchronous? boolean refused by a server that would count this receiver as synchronous
---@field status_ms? number between two reports to the server; default 10000, 0: when it asks
---@field silence_ms? number a server that says nothing for so long is dead; default 60000
---@field progress? fun(word: {event: string, lsn: number?, timeline: integer?, name: string?})
--- its events: "begins" at lsn of timeline; "finished" a segment, which ends at lsn; "switched" to
--- timeline, which begins at lsn; "ignored": file `name`, which is not what its name says. It is
--- called between tasks and cannot wait.

--- Streams a server's WAL into a directory, from where it ends there, over the server's timelines;
--- waits, until end_lsn or the end of the link. Whatever ends it, what was received is durable.
---@param options ReceiveOptions
---@return {begin_lsn: number, lsn: number, timeline: integer}? result
---@return Error? err code "notfound": also when the server has removed the WAL that comes next;
--- "refused": another system, a timeline that the server does not know, a mirror's name or slot;
--- "cancelled", "connect", "timeout", "sql", "busy", "space", ...
function mr.receive_wal(options) end

---@class Agent
local Agent = {}

--- Starts an agent: on this host as a child process, or on another one by ssh (ssh.h). Calls may be
--- sent at once; that the host cannot be reached is told by ready and by the calls.
---@param options? {argv: string[]?, host: string?, connect_ms: number?} host as ssh knows it;
--- connect_ms (10000) for the way there; argv when it is another program
---@return Agent? agent
---@return Error? err
function mr.agent(options) end

--- Calls an operation (include/moonrise/agent/agent.h lists them); waits. Fields that are null in
--- the answer are nil. progress is called between tasks and cannot wait.
---@param op string
---@param args? table
---@param options? {timeout_ms: number?, progress: function?}  default 30000; 0 is none; progress(table)
---@return table? result
---@return Error? err
function Agent:call(op, args, options) end

--- Waits until the agent has greeted. It goes on connecting when the time is up.
---@param timeout_ms? number
---@return boolean? ok
---@return Error? err why it ended: "hostkey", "unknownkey", "permission", "version", "notfound" (no moonrise there)
function Agent:ready(timeout_ms) end

---@return boolean
function Agent:is_open() end

---@return integer
function Agent:pid() end

--- Ends the agent and with it all its work.
function Agent:close() end

---@class Relay
local Relay = {}

--- Relays between two hosts (include/moonrise/wire/relay.h): what joins a recovery that listens at
--- the target's host, with feeders at the source's.
---@param options {source: string?, target: string?, socket: string, connect_ms: number?} hosts as
--- ssh knows them, nil: this one; socket is the recovery's; connect_ms (10000) for the way to each
---@return Relay? relay
---@return Error? err
function mr.relay(options) end

--- Why the first of its streams that failed did.
---@return Error? err
function Relay:why() end

--- Ends its streams.
function Relay:close() end

---@class Prober
local Prober = {}

---@class Observation
---@field dbid integer
---@field evidence string "ok" or the evidence: "refused", "reset", ...; "shortage": says nothing
---@field fresh boolean
---@field at number mr.clock()
---@field took number
---@field sqlstate? string
---@field message? string
---@field in_recovery? boolean
---@field timeline? integer
---@field sysid? string
---@field lsn? number primary: flushed; mirror: received and flushed
---@field replay_lsn? number
---@field replay_paused? boolean
---@field receiver? boolean
---@field sync_names? string
---@field sync_commit? string the server's own; "unknown": not to be told, nil: not told yet
---@field peer? {name: string, state: string, sync: string, sent_lsn: number, flush_lsn: number, replay_lsn: number}
---@field waiting? integer

--- Starts a prober: `options.observed(observation)` is called for each outcome (it must not wait).
---@param options {interval_ms: number?, timeout_ms: number?, fresh_ms: number?, observed: function}
---@return Prober
function mr.prober(options) end

--- Adds or replaces an instance.
---@param dbid integer
---@param target {conn: ConnOptions, sysid: string?, peer_slot: string?, standby: boolean?}
function Prober:set(dbid, target) end

---@param dbid integer
function Prober:drop(dbid) end

--- Probes an instance now, with a fresh session.
---@param dbid integer
function Prober:now(dbid) end

function Prober:close() end

return mr
