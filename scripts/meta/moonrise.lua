---@meta moonrise
--- What scripts can reach of the engine: `local mr = require "moonrise"`.
---
--- A call that can fail returns `nil, err`; wrong use raises at the caller's line. A call marked
--- "waits" suspends the coroutine it is called in (a runbook's main function, a task) and the loop
--- goes on with the others; outside a task it is an error. LSNs are numbers, system identifiers
--- text, times milliseconds unless the name says otherwise. servers.lua has servers and agents.

---@class moonrise
---@field _handles fun(): integer open handles of the loop; outside of mr.main: what it left open
---@field _classes fun(): table<string, string[]> every class with the names of its methods
local mr = {}

---@class Error
---@field code string one of the engine's codes: "timeout", "refused", "connect", "sql", "stale", ...
---@field message string one line, context first
---@field hint? string what to do next
---@field sqlstate? string five characters, when a server answered with an error
---@field instance? string the instance it is about
---@field cause? Error
---@field traceback? string where it was raised, when a task ended with it
--- tostring(err) is "message" or "message (hint)". What a task raised that is no Error becomes one
--- with code "raised".

--- Makes an error value.
---@param code string
---@param message string
---@param more? {hint: string?, instance: string?, cause: Error?, sqlstate: string?}
---@return Error
function mr.error(code, message, more) end

--- Returns its arguments, or raises the error (which keeps its fields) when the first is nil or
--- false.
---@generic T
---@param value T?
---@param err? Error
---@return T
function mr.check(value, err, ...) end

mr.version = "" ---@type string
mr.scripts_dir = "" ---@type string where the packaged runbooks are
mr.policies_dir = "" ---@type string where the packaged policies are
mr.executable = "" ---@type string this program's file

--- Runs fn(...) as the main task, and the loop until it ends: the results of fn, or its error
--- raised again. The tasks that are left are cancelled then: the operation each is in returns nil,
--- err, and it runs until it would wait again; agents, connections and probers are closed. The
--- program itself calls this once; specs call it for each case. Without handlers of their own
--- (mr.on_signal), INT and TERM cancel the main task, a second one ends it, HUP is ignored.
---@param fn function
---@param ... any
---@return any ...
function mr.main(fn, ...) end

--- Milliseconds of a clock that never jumps, with fractions.
---@return number
function mr.clock() end

--- Milliseconds since 1970.
---@return number
function mr.wall() end

--- Waits. Not even nil, err (code "cancelled") means that the time has passed.
---@param ms number
---@return boolean? ok
---@return Error? err
function mr.sleep(ms) end

---@class Task
local Task = {}

--- Starts fn(...) as a task of its own; it first runs when the caller next waits.
---@param fn function
---@param ... any
---@return Task
function mr.spawn(fn, ...) end

--- Waits for the end of the task: its results; or nil, err when it raised, was cancelled or
--- `timeout_ms` passed (code "timeout"; the task goes on).
---@param timeout_ms? number
function Task:wait(timeout_ms) end

--- Makes the operation the task is in, or the next one, return nil, err with code "cancelled". A
--- task that has not begun never does. A call to an agent is withdrawn and returns what the agent
--- says within 5 s: it may have succeeded. A query that is cancelled closes its connection.
function Task:cancel() end

---@return boolean
function Task:done() end

--- Runs fn(item, index) for every item, at most `limit` at a time; waits for all. Results by index:
--- what fn returned first, or {error = err} for one that raised or returned nil, err. Cancelling
--- the caller cancels all that run and begins no other.
---@param items table
---@param limit integer
---@param fn function
---@return table
function mr.parallel(items, limit, fn) end

---@class Queue
local Queue = {}

--- An unbounded queue between tasks and callbacks.
---@return Queue
function mr.queue() end

--- Puts a value in (not nil); never waits.
---@param value any
function Queue:push(value) end

--- Waits for a value: it, or nil, err with code "timeout" or "cancelled".
---@param timeout_ms? number
function Queue:pop(timeout_ms) end

---@return integer
function Queue:size() end

--- Runs a program without a shell; waits until it has ended. On time-out (default none) and when it
--- prints more than 64 MiB its process group is killed. With `term_ms` one that is late is asked by
--- SIGTERM first, so long before. With `keep_bytes` only the first ones of each output are kept and
--- the rest is dropped. `env` is added to this process's environment, `only_env` replaces it.
---@param argv string[]
---@param options? {stdin: string?, timeout_ms: number?, term_ms: number?, keep_bytes: number?, cwd: string?, env: table<string,string>?, only_env: table<string,string>?}
---@return {code: integer, signal: integer, stdout: string, stderr: string}? result
---@return Error? err
function mr.run(argv, options) end

--- Runs a program on another host, by ssh (ssh.h), and waits until it has ended; its words reach it
--- whatever login shell there is. More than 64 MiB of output is an error.
---@param host string as ssh knows it
---@param argv string[]
---@param options? {stdin: string?, timeout_ms: number?, connect_ms: number?} timeout_ms is none,
--- connect_ms (10000) for the way there
---@return string? output
---@return Error? err "child" with the last line of its standard error, and as mr.agent tells them
function mr.run_on(host, argv, options) end

---@class Sandbox
local Sandbox = {}

--- Loads a chunk into a Lua state of its own and runs it, with nothing but the allowed names:
--- assert, error, ipairs, next, pairs, pcall, select, tonumber, tostring, type, unpack; string
--- without dump; table.concat, insert, remove, sort (up to 10000 items); math without random. Other
--- names cannot be read, and no global can be set. Patterns that would take too long on their text
--- are errors.
---@param options {source: string?, file: string?, name: string?, memory_bytes: integer?, time_ms: number?, env: table?}
--- `env`: extra plain data visible as globals; a copy. `time_ms` (of processor time; wall time is
--- 20 times that) default 50, `memory_bytes` 16 MiB. `name` (default: the file) stands in messages.
---@return Sandbox? sandbox
---@return Error? err  code "format" (syntax), "raised" (the chunk's own error), "limit"; messages
--- have file:line. "notfound" and the like for a file.
function mr.sandbox(options) end

--- Calls the chunk's returned function, or the function `name` of its returned table, with plain
--- data: nil, booleans, finite numbers, text, tables of these. What the chunk keeps in locals stays
--- for the next call, until a limit is hit: then the state is made anew.
---@param name? string
---@param ... any plain data (no functions, no cycles); mr.null counts as nil
---@return any result plain data; nil, err on an error (code "raised"), a budget that is used up
--- ("limit"), a result that is not plain data ("format"), no such function ("notfound")
function Sandbox:call(name, ...) end

--- The plain data that the chunk returned (for files that are data, as cluster.lua).
---@return any value
---@return Error? err
function Sandbox:value() end

--- Whether the chunk returned a table with this function.
---@param name string
---@return boolean
function Sandbox:has(name) end

function Sandbox:close() end

--- JSON: mr.null stands for null. encode raises on what JSON cannot say; decode returns nil, err.
--- Keys are sorted; an empty table is {} unless it came from [] or json_array; bytes that are no
--- UTF-8 become U+FFFD.
---@param value any
---@return string
function mr.json_encode(value) end

---@param text string
---@return any value
---@return Error? err
function mr.json_decode(text) end

--- Marks a list (default: a new one) so that it is [] in JSON also when empty.
---@param list? table
---@return table
function mr.json_array(list) end

mr.null = nil ---@type userdata

--- Files. Errors are "notfound", "permission", "exists", "io", "space".
---@param path string
---@param max_bytes? integer default 16 MiB
---@return string? text
---@return Error? err
function mr.read_file(path, max_bytes) end

--- Writes durably: beside, flushed, renamed, directory flushed. Mode is an octal text, default
--- "0600". In a task it waits; a cancellation does not stop it.
---@param path string
---@param text string
---@param mode? string
---@return boolean? ok
---@return Error? err
function mr.write_file(path, text, mode) end

--- Appends one line, whole or not at all; flushed when `durable`, for which a task waits.
---@param path string
---@param text string
---@param durable? boolean
---@return boolean? ok
---@return Error? err
function mr.append_file(path, text, durable) end

--- Makes a directory and its parents, mode "0700" by default.
---@param path string
---@param mode? string
---@return boolean? ok
---@return Error? err
function mr.make_dir(path, mode) end

---@param path string
---@return string[]? names sorted, without . and ..
---@return Error? err
function mr.list_dir(path) end

--- Follows links. {kind = "file"|"dir"|"other", size, mode (octal text), mtime_s, uid}
---@param path string
---@return table? stat
---@return Error? err
function mr.stat(path) end

---@param path string
---@return boolean? ok
---@return Error? err
function mr.remove_file(path) end

--- Renames; both on one file system.
---@return boolean? ok
---@return Error? err
function mr.rename(from, to) end

--- The canonical absolute path; "notfound" when it does not exist.
---@param path string
---@return string? path
---@return Error? err
function mr.real_path(path) end

---@class Lock
local Lock = {}

--- Takes an exclusive lock on a file (created 0600) until closed or the process ends; "busy" when
--- held.
---@param path string
---@return Lock? lock
---@return Error? err
function mr.lock_file(path) end

function Lock:close() end

---@return string
function mr.cwd() end

---@param name string
---@return string?
function mr.getenv(name) end

--- {uid, user, home, hostname, pid}
---@return table
function mr.whoami() end

--- Random bytes from the system as hexadecimal text.
---@param bytes integer
---@return string
function mr.random_hex(bytes) end

--- What a server stores instead of a password, for `alter role ... password`: the password itself
--- is then never sent. Of one iteration, so only for passwords of at least 128 random bits.
---@param password string ASCII
---@return string
function mr.scram_secret(password) end

--- "16/B374D848" to a number and back.
---@param text string
---@return number? lsn
---@return Error? err
function mr.lsn(text) end

---@param lsn number
---@return string
function mr.lsn_text(lsn) end

--- The addresses of a host name; waits.
---@param name string
---@param timeout_ms? number
---@return string[]? addresses
---@return Error? err
function mr.resolve(name, timeout_ms) end

--- Whether a local TCP port is free to bind on an address.
---@param port integer
---@param address? string default "127.0.0.1"
---@return boolean
function mr.port_free(port, address) end

--- A port nobody listens on now.
---@return integer
function mr.free_port() end

--- Sends a signal ("TERM", "KILL", "STOP", "CONT", "INT", "QUIT", "HUP", "0") to one process id.
---@return boolean? ok
---@return Error? err
function mr.kill(pid, signal) end

--- Calls fn(name), in a task of its own, when the signal ("INT", "TERM", "HUP") arrives; nil
--- restores the default (mr.main).
---@param name string
---@param fn function?
function mr.on_signal(name, fn) end

--- Terminal: is file "stdin", "stdout" or "stderr" a terminal; its width.
---@return boolean
function mr.is_tty(file) end
---@return integer
function mr.term_width() end

--- Writes to standard output or error, at once or, in mr.main, when a reader that has stopped goes
--- on; never waits for it. What comes to standard error when 1 MiB is waiting already is dropped,
--- and their number told.
---@param text string
function mr.out(text) end
---@param text string
function mr.err(text) end

--- Reads a line from standard input; waits. nil at its end.
---@return string? line
---@return Error? err
function mr.read_line() end

--- Leaves this process running without its terminal; returns in the background process. Before
--- there are tasks, connections or agents (else it raises).
---@param log_path string where standard output and error go
---@return boolean? ok
---@return Error? err
function mr.daemonize(log_path) end

--- XXH3-128 of text as 32 hexadecimal characters (for ids; not secret).
---@param text string
---@return string
function mr.hash(text) end

return mr
