--- The program itself, with a scripts folder of the spec's own.
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local RUNBOOK = [[
local mr = require("moonrise")
local M = {}
local tell = {
    args = function(argv, invoked)
        mr.out(table.concat(argv, "|") .. " as " .. tostring(invoked))
    end,
    compiler = function()
        mr.out(tostring(jit.status()))
    end,
    where = function()
        mr.out(mr.scripts_dir .. "\n" .. mr.policies_dir .. "\n" .. package.path)
    end,
    env = function()
        for _, name in ipairs({ "PGHOST", "PGOPTIONS", "LANGUAGE", "LC_ALL" }) do
            mr.out(name .. "=" .. tostring(mr.getenv(name)) .. "\n")
        end
        mr.append_file(mr.getenv("HOME") .. "/made", "x")
        io.open(mr.getenv("HOME") .. "/made2", "w"):close()
        mr.out(mr.stat(mr.getenv("HOME") .. "/made2").mode)
    end,
    files = function()
        mr.out(mr.read_file("/proc/self/limits"):match("Max open files +(%d+ +%d+)"))
    end,
    bug = function()
        local nothing
        return nothing.field
    end,
    fail = function()
        error(mr.error("busy", "it is taken", { hint = "wait" }))
    end,
    hang = function()
        mr.out("hanging\n")
        local ok, err = mr.queue():pop(60000)
        mr.out(tostring(ok) .. " " .. tostring(err and err.code))
        return 4
    end,
    callback = function()
        mr.spawn(error, "nobody asked")
        mr.spawn(function() end):wait()
        collectgarbage()
        collectgarbage()
    end,
    observed = function()
        local seen = mr.queue()
        mr.prober({ interval_ms = 10, observed = function(observation)
            seen:push(observation)
            error("in observed")
        end }):set(1, { conn = { host = "127.0.0.1", port = mr.free_port() } })
        mr.out(seen:pop().evidence .. " " .. seen:pop().evidence)
    end,
    daemon = function()
        mr.check(mr.daemonize(mr.getenv("HOME") .. "/log"))
        local pid = tostring(mr.whoami().pid)
        mr.out("session " .. mr.run({ "ps", "-o", "sid=,tty=", "-p", pid }).stdout)
        mr.err("done\n")
    end,
    late = function()
        local agent = mr.agent({ argv = { "cat" } })
        local ok, err = pcall(mr.daemonize, "/dev/null")
        mr.out(tostring(ok) .. tostring(err))
        agent:close()
    end,
    text = function()
        return "text"
    end,
    read = function(argv)
        for _ = 1, tonumber(argv[1]) do
            mr.out("[" .. tostring(mr.read_line()) .. "]")
        end
    end,
    late_read = function()
        local task = mr.spawn(mr.read_line)
        mr.spawn(function() end):wait()
        task:cancel()
        mr.out(select(2, task:wait()).code .. " ")
        mr.out(mr.read_line())
    end,
}
function M.start(name, argv, invoked)
    if not name then
        mr.out("no name")
        return 2
    end
    return tell[name](argv, invoked) or 0
end
return M
]]

describe("the program", function()
    local place, program

    setup(function()
        place = place_of.new()
        place:must({ "mkdir", "-p", "build", "scripts/lib", "policies" })
        place:must({ "cp", place_of.moonrise(), "build/moonrise" })
        place:must({ "ln", "-s", "moonrise", "build/gpargs" })
        place:write("scripts/lib/runbook.lua", RUNBOOK)
        program = place:path("build/moonrise")
    end)

    teardown(place_of.close_all)

    local function run(...)
        return place:run({ program, ... })
    end

    it("tells its version", function()
        local result = run("--version")
        assert.equals(0, result.code)
        assert.matches("^moonrise %d", result.out)
    end)

    it("hands name and arguments to the runbook, and its result to the caller", function()
        assert.equals("a|-b|c d as nil", run("args", "a", "-b", "c d").out)
        assert.same({ "no name", 2 }, { run().out, run().code })
        assert.equals(0, run("text").code)
    end)

    it("interprets scripts, and never compiles them", function()
        assert.equals("false", run("compiler").out)
    end)

    it("stands for a runbook under Greenplum's names", function()
        local result = place:run({ place:path("build/gpargs"), "-e", "x" })
        assert.equals("-e|x as gpargs", result.out)
    end)

    it("finds its scripts beside the folder it is in, and no others", function()
        local result = place:run({ program, "where" }, { env = { LUA_PATH = "/tmp/?.lua" } })
        local scripts = place:must({ "realpath", "scripts" }):match("[^\n]+")
        local policies = place:must({ "realpath", "policies" }):match("[^\n]+")
        assert.equals(("%s\n%s\n%s/?.lua"):format(scripts, policies, scripts), result.out)
    end)

    it("is not moved by the caller's environment", function()
        local result = place:run({ program, "env" },
            { env = { PGHOST = "x", PGOPTIONS = "-c a=b", LANGUAGE = "de", LC_ALL = "de_DE" } })
        assert.equals("PGHOST=nil\nPGOPTIONS=nil\nLANGUAGE=nil\nLC_ALL=C\n0600", result.out)
    end)

    it("may open as many files as the system lets it", function()
        local result = place:run({ "sh", "-c", 'ulimit -Sn 300; ulimit -Hn 700; exec "$0" files',
            program })
        assert.same({ "700", "700" }, { result.out:match("(%d+) +(%d+)") })
    end)

    it("shows a bug as one line, with -v its traceback", function()
        local result = run("bug")
        assert.equals(1, result.code)
        assert.matches("^moonrise: .*runbook.lua:%d+: attempt to index local 'nothing' [^\n]*\n$",
            result.err)
        result = run("bug", "-v")
        assert.matches("stack traceback:\n.*runbook.lua", result.err)
    end)

    it("shows an error value as it prints itself", function()
        local result = run("fail")
        assert.same({ 1, "moonrise: it is taken (wait)\n" }, { result.code, result.err })
    end)

    it("tells of an error in a task that nobody waits for", function()
        local result = run("callback")
        assert.equals(0, result.code)
        assert.equals("moonrise: uncaught error in a task: nobody asked\n", result.err)
    end)

    it("tells of an error in a callback and goes on", function()
        local result = run("observed")
        assert.same({ 0, "refused refused" }, { result.code, result.out })
        assert.matches("^moonrise: uncaught error in a callback: .*: in observed\n", result.err)
    end)

    it("cancels its main task on SIGINT and SIGTERM", function()
        for _, signal in ipairs({ "INT", "TERM" }) do
            local started = place:start({ program, "hang" })
            started:says("hanging", wait.SOON_S)
            started:kill(signal)
            assert.equals(4, started:wait(wait.SOON_S))
            assert.matches("nil cancelled", started:output())
        end
    end)

    it("reads its input line by line to the end", function()
        local result = place:run({ program, "read", "4" }, { stdin = "one\n\nthree" })
        assert.equals("[one][][three][nil]", result.out)
        local long = ("x"):rep(100000)
        result = place:run({ program, "read", "2" }, { stdin = long .. "\nrest" })
        assert.equals("[" .. long .. "][rest]", result.out)
    end)

    it("keeps the input that comes after a cancelled wait for it", function()
        place:must({ "mkfifo", "input" })
        local started = place:start({ "sh", "-c", "exec " .. program .. " late_read <input" })
        local input = io.open(place:path("input"), "w")
        started:says("cancelled", wait.SOON_S)
        input:write("line\n")
        input:close()
        assert.equals(0, started:wait(wait.SOON_S))
        assert.equals("cancelled line", started:output())
    end)

    it("goes on in the background without a terminal", function()
        local result = run("daemon")
        assert.same({ 0, "", "" }, { result.code, result.out, result.err })
        local log = wait.eventually("the daemon's log", wait.SOON_S, function()
            local text = place_of.read(place:path("home/log"))
            return text and text:match("done") and text
        end)
        assert.matches("session +%d+ %?", log)
    end)

    it("does not go to the background with agents", function()
        assert.matches("^false.*daemonize: ", run("late").out)
    end)

    it("says what is missing when its scripts are not there", function()
        place:must({ "sh", "-c", "mkdir -p lonely/a/b && cp build/moonrise lonely/a/b/" })
        local result = place:run({ place:path("lonely/a/b/moonrise"), "args" })
        assert.equals(1, result.code)
        assert.matches("lib.runbook", result.err)
    end)

    it("runs with any of its three descriptors closed", function()
        for _, closed in ipairs({ "<&-", ">&-", "2>&-", "<&- >&- 2>&-" }) do
            local result = place:run({ "sh", "-c", 'exec "$0" args ' .. closed, program },
                { timeout_s = 20 })
            assert.is_true(result.code < 2, closed .. ": " .. result.code)
        end
    end)

    it("ends as an agent when its input ends", function()
        assert.are_not.equal(124, place:run({ program, "agent" }, { timeout_s = 20 }).code)
    end)
end)
