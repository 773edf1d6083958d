--- Programs and host names.
local mr = require("moonrise")

local turns = require("tests.lib.turns")

local main = turns.main

describe("a program", function()
    it("gives its output and how it ended", main(function()
        assert.same({ code = 3, signal = 0, stdout = "out\n", stderr = "err\n" },
            mr.run({ "sh", "-c", "echo out; echo err >&2; exit 3" }))
        local killed = mr.run({ "sh", "-c", "kill -9 $$" })
        assert.equals(9, killed.signal)
    end))

    it("gets arguments as they are, without a shell", main(function()
        assert.equals("$HOME `x` 'y'|*|", mr.run({ "printf", "%s|", "$HOME `x` 'y'", "*" }).stdout)
    end))

    it("gets input, a directory and an environment", main(function()
        assert.equals("in\0put", mr.run({ "cat" }, { stdin = "in\0put" }).stdout)
        assert.equals("", mr.run({ "cat" }, { stdin = "" }).stdout)
        assert.equals("", mr.run({ "cat" }).stdout)
        assert.equals("/\n", mr.run({ "pwd" }, { cwd = "/" }).stdout)
        local env = mr.run({ "env" },
            { env = { SPEC_NAME = "a b", PATH = "/bin:/usr/bin" } }).stdout
        assert.matches("\nSPEC_NAME=a b\n", "\n" .. env)
        assert.matches("\nPATH=/bin:/usr/bin\n", "\n" .. env)
        assert.equals(1, select(2, ("\n" .. env):gsub("\nPATH=", "")))
    end))

    it("that prints much is read whole", main(function()
        assert.equals(3e6, #mr.run({ "head", "-c", "3000000", "/dev/zero" }).stdout)
    end))

    it("that prints without end is ended", main(function()
        local result, err = mr.run({ "yes" })
        assert.is_nil(result)
        assert.equals("limit", err.code)
    end))

    it("that takes too long is ended with its children", main(function()
        local start = mr.clock()
        local result, err = mr.run(
            { "sh", "-c", "tail -f /dev/null & tail -f /dev/null" }, { timeout_ms = 30 })
        assert.is_nil(result)
        assert.equals("timeout", err.code)
        assert.is_true(mr.clock() - start < 20000)
    end))

    it("that takes too long may be asked to end first", main(function()
        local start = mr.clock()
        local told = os.tmpname()
        local result, err = mr.run({ "sh", "-c", "trap 'echo asked > $0; exit' TERM; " ..
            "while :; do tail -f /dev/null; done", told }, { timeout_ms = 200, term_ms = 60000 })
        assert.is_nil(result)
        assert.equals("timeout", err.code)
        assert.equals("asked\n", mr.read_file(told))
        os.remove(told)
        assert.is_true(mr.clock() - start < 20000)
    end))

    it("of which only the first bytes are wanted may print what it likes", main(function()
        local result = mr.check(mr.run({ "sh", "-c", "head -c 80000000 /dev/zero; echo abc >&2" },
            { keep_bytes = 5 }))
        assert.same({ code = 0, signal = 0, stdout = ("\0"):rep(5), stderr = "abc\n" }, result)
    end))

    it("may get an environment of which nothing is inherited", main(function()
        assert.equals("A=b\n", mr.run({ "/usr/bin/env" }, { only_env = { A = "b" } }).stdout)
        assert.equals("", mr.run({ "/usr/bin/env" }, { only_env = {} }).stdout)
    end))

    it("that is not there is an error", main(function()
        local result, err = mr.run({ "/no/such/program" })
        assert.is_nil(result)
        assert.equals("notfound", err.code)
        assert.matches("/no/such/program", err.message, 1, true)
    end))

    it("ends when its task is cancelled", main(function()
        local task = turns.begin(mr.run, { "tail", "-f", "/dev/null" })
        task:cancel()
        assert.equals("cancelled", select(2, task:wait()).code)
    end))

    it("refuses wrong use before anything runs", main(function()
        for _, case in ipairs({ {}, { {} }, { { 1 } }, { { "a\0b" } }, { "true" },
            { { "true" }, { stdout = "x" } }, { { "true" }, { env = { 1 } } },
            { { "true" }, { only_env = { 1 } } },
            { { "true" }, { timeout_ms = "x" } } }) do
            assert.has_error(function()
                mr.run(unpack(case))
            end)
        end
    end))
end)

describe("resolve", function()
    it("gives the addresses of a name", main(function()
        local addresses = mr.check(mr.resolve("localhost"))
        assert.is_true(addresses[1] == "127.0.0.1" or addresses[1] == "::1")
        assert.same({ "192.0.2.7" }, mr.resolve("192.0.2.7"))
    end))

    it("says when there are none", main(function()
        local addresses, err = mr.resolve("no-such-host.invalid", 20000)
        assert.is_nil(addresses)
        assert.is_true(err.code == "notfound" or err.code == "timeout")
    end))

    it("can be left while it works", main(function()
        local task = turns.begin(mr.resolve, "no-such-host.invalid")
        task:cancel()
        assert.is_true(task:wait() == nil)
    end))
end)
