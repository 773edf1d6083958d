--- A throwaway directory for one spec file, and programs that run in it. Whatever is still alive
--- when the specs end, or when they are killed, is ended by tests/lib/sweep, which waits at a pipe
--- that only this process holds open.

local wait = require("tests.lib.wait")

local M = {}
local Place, Program = {}, {}
Place.__index, Program.__index = Place, Program
local open = {}

local function quote(text)
    return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end
M.quote = quote

local function slurp(path)
    local file = io.open(path, "rb")
    local text = file and file:read("*a")
    if file then
        file:close()
    end
    return text
end
M.read = slurp

---@param path string
---@param text string at its end
function M.append(path, text)
    local file = assert(io.open(path, "ab"))
    file:write(text)
    file:close()
end

--- The directory of this tree.
---@return string
function M.top()
    return assert(io.popen("pwd -P")):read("*l")
end

--- The program under test: build/moonrise of this tree (or of BUILD).
---@return string
function M.moonrise()
    local build = os.getenv("BUILD") or "build"
    return (build:match("^/") and build or M.top() .. "/" .. build) .. "/moonrise"
end

--- Makes a directory under TMPDIR (short, since socket paths are) with a home in it.
---@return table place
function M.new()
    local dir = assert(io.popen("mktemp -d")):read("*l")
    local place = setmetatable({ dir = dir, count = 0 }, Place)
    -- "e": programs that are started later do not inherit the pipe, or it would never end.
    place.guard = assert(io.popen("exec tests/lib/sweep -w " .. quote(dir), "we"))
    os.execute("mkdir -m 700 " .. quote(dir .. "/home"))
    table.insert(open, place)
    return place
end

--- What a spec file's teardown does: closes every place that is open, also when its setup failed.
function M.close_all()
    while #open > 0 do
        table.remove(open):close()
    end
end

--- Ends what runs in the place and removes it.
function Place:close()
    if self.guard then
        self.guard:close()
        self.guard = nil
    end
end

---@param name string
---@return string path
function Place:path(name)
    return self.dir .. "/" .. name
end

---@param name string
---@param text string
---@return string path
function Place:write(name, text)
    local path = self:path(name)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return path
end

--- A shell's command line whose environment knows this place and nothing of the caller's PG*.
---@param argv string[]
---@param env? table<string, string>
---@return string
function Place:command_line(argv, env)
    local words = { "env", "-u", "PGDATABASE", "-u", "PGOPTIONS", "-u", "PGHOST", "-u", "PGPORT",
        "HOME=" .. self:path("home"), "XDG_STATE_HOME=" .. self:path("home/state"),
        "MOONRISE_SSH_DIR=" .. self:path("home/.ssh"),
        "MOONRISE_TEST_DIR=" .. self.dir, "LC_ALL=C.UTF-8" }
    for name, value in pairs(env or {}) do
        words[#words + 1] = name .. "=" .. value
    end
    for _, word in ipairs(argv) do
        words[#words + 1] = word
    end
    for index, word in ipairs(words) do
        words[index] = quote(word)
    end
    return table.concat(words, " ")
end

local function new_files(place)
    place.count = place.count + 1
    return place:path("program-" .. place.count)
end

--- Runs a program to its end, without a terminal.
---@param argv string[]
---@param options? {stdin: string?, env: table<string,string>?, timeout_s: number?}  default 60 s
---@return {code: integer, out: string, err: string} result code 124 when it took too long
function Place:run(argv, options)
    options = options or {}
    local base = new_files(self)
    local input = options.stdin and self:write(base:match("[^/]+$") .. ".in", options.stdin)
    local form = "cd %s && timeout -k 2 %g %s <%s >%s 2>%s; echo $? >%s"
    os.execute(form:format(quote(self.dir), options.timeout_s or 60,
        self:command_line(argv, options.env), quote(input or "/dev/null"),
        quote(base .. ".out"), quote(base .. ".err"), quote(base .. ".code")))
    local result = {
        code = tonumber(slurp(base .. ".code")),
        out = slurp(base .. ".out"),
        err = slurp(base .. ".err"),
    }
    os.execute("rm -f " .. quote(base) .. ".*")
    return result
end

--- Like run, and raises with all that the program said unless it ends with code 0.
---@return string out
function Place:must(argv, options)
    local result = self:run(argv, options)
    if result.code ~= 0 then
        error(("%s: exit code %d\n%s%s"):format(table.concat(argv, " "), result.code,
            result.out, result.err), 2)
    end
    return result.out
end

--- Starts a program in the background.
---@param argv string[]
---@param options? {env: table<string,string>?}
---@return table program
function Place:start(argv, options)
    local base = new_files(self)
    local line = self:command_line(argv, options and options.env)
    os.execute(("cd %s && { sh -c 'echo $$ >%s.pid; exec \"$@\"' sh %s; echo $? >%s.code; } " ..
        "</dev/null >%s.out 2>%s.err &"):format(quote(self.dir), base, line, base, base, base))
    local program = setmetatable({ base = base, argv = argv }, Program)
    wait.eventually(argv[1] .. " to be started", wait.SOON_S, function()
        program.pid = tonumber(slurp(base .. ".pid") or "")
        return program.pid
    end)
    return program
end

---@return string output what it has said so far, standard output and then error
function Program:output()
    return (slurp(self.base .. ".out") or "") .. (slurp(self.base .. ".err") or "")
end

---@return integer? code nil while it runs; 128 + N when signal N ended it
function Program:code()
    return tonumber(slurp(self.base .. ".code") or "")
end

---@param signal string? default "TERM"
function Program:kill(signal)
    M.kill(self.pid, signal)
end

--- Waits for its end.
---@param deadline_s number
---@return integer code
function Program:wait(deadline_s)
    return wait.eventually(table.concat(self.argv, " ") .. " to end", deadline_s, function()
        return self:code()
    end)
end

--- Waits until it has said something that matches; returns the captures.
---@param pattern string
---@param deadline_s number
function Program:says(pattern, deadline_s)
    return wait.eventually(("%q from %s"):format(pattern, self.argv[1]), deadline_s, function()
        local found, more = self:output():match(pattern)
        return found, found and more or self:output()
    end)
end

--- Sends a signal to one process; false when there is none.
---@param pid integer
---@param signal string? default "TERM"
---@return boolean sent
function M.kill(pid, signal)
    assert(tonumber(pid) and tonumber(pid) > 1, "a process id")
    return os.execute(("kill -%s %d 2>/dev/null"):format(signal or "TERM", pid)) == 0
end

--- Whether a process runs; a zombie does not.
---@param pid integer
---@return boolean
function M.alive(pid)
    local stat = slurp(("/proc/%d/stat"):format(pid))
    local state = stat and stat:match("%) (%a)")
    return state ~= nil and state ~= "Z" and state ~= "X"
end

local given = {}

-- Suites that run side by side (tests/run) do not give out each other's ports.
local LANE = tonumber(os.getenv("MOONRISE_LANE") or 0) % 4

--- A TCP port nobody listens on, below the range that clients get; each is given once.
---@return integer
function M.free_port()
    local used = setmetatable({}, { __index = given })
    for _, name in ipairs({ "/proc/net/tcp", "/proc/net/tcp6" }) do
        for port in (slurp(name) or ""):gmatch("%d+: %x+:(%x+) ") do
            used[tonumber(port, 16)] = true
        end
    end
    local random = io.open("/dev/urandom", "rb")
    local port
    repeat
        local high, low = random:read(2):byte(1, 2)
        port = 12000 + LANE * 5000 + (high * 256 + low) % 5000
    until not used[port]
    random:close()
    given[port] = true
    return port
end

return M
