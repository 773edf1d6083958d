--- tests/run, on suites that lie, hang and die: what it must not take for a success.

local place_of = require("tests.lib.place")

local top = assert(io.popen("pwd -P")):read("*l")

describe("tests/run", function()
    local place

    -- A tree with these units, as shell scripts, and what tests/run says of it.
    local function run(units, env)
        local tree = place:path("tree")
        place:must({ "sh", "-c", "rm -rf $0 && mkdir -p $0/tests/unit $0/build/unit && " ..
            "cp -R $1/run $1/lib $0/tests", tree, top .. "/tests" })
        for name, script in pairs(units) do
            place:write("tree/tests/unit/" .. name .. ".c", "")
            place:write("tree/build/unit/" .. name, "#!/bin/sh\n" .. script .. "\n")
        end
        place:run({ "sh", "-c", "chmod +x $0/build/unit/*", tree })
        local all = { BUILD = "build", MOONRISE_TIMEOUT = "1", ONLY = "" }
        for name, value in pairs(env or {}) do
            all[name] = value
        end
        local result = place:run({ tree .. "/tests/run", "unit" }, { env = all })
        return result.out:match("([^\n]*)\n$"), result.code, result.out
    end

    setup(function()
        place = place_of.new()
    end)

    teardown(place_of.close_all)

    it("adds up what the suites report", function()
        local last, code = run({ a = "echo ok 1 - x; echo ok 2 - y; echo 1..2",
            b = "echo 1..2; echo ok 1 - x; echo 'not ok 2 # SKIP y'" })
        assert.are.equal("moonrise: 3 passed, 0 failed, 1 skipped", last)
        assert.are.equal(0, code)
    end)

    it("shows a failure in full", function()
        local last, code, out = run({ a = "echo 1..1; echo not ok 1 x; echo '# because'; exit 1" })
        assert.are.equal("moonrise: 0 passed, 1 failed, 0 skipped", last)
        assert.are_not.equal(0, code)
        assert.matches("not ok 1 x\n +# because\n", out)
    end)

    it("counts tests that were planned and never ran", function()
        assert.are.equal("moonrise: 1 passed, 2 failed, 0 skipped",
            (run({ a = "echo 1..3; echo ok 1 - x" })))
    end)

    it("does not take silence, or a death, for a success", function()
        local lies = { "exit 0", "echo 1..0", "echo ok 1 - x", "echo 1..1; echo ok 1; exit 7",
            "echo 1..1; echo ok 1; kill -SEGV $$" }
        for _, script in ipairs(lies) do
            local last, code, out = run({ a = script })
            assert.matches("1 failed, 0 skipped$", last)
            assert.are_not.equal(0, code)
            assert.matches("died or ran nothing", out)
        end
        local last, code = run({})
        assert.matches("1 failed", last)
        assert.are_not.equal(0, code)
    end)

    it("runs two suites side by side, and no more", function()
        local meet = "echo 1..1; touch %s; until [ -e %s ]; do :; done; echo ok 1; "
        local a, b = place:path("a"), place:path("b")
        local suites = { a = meet:format(a, b), b = meet:format(b, a) }
        assert.are.equal("moonrise: 2 passed, 0 failed, 0 skipped", (run(suites)))
        os.remove(a)
        os.remove(b)
        assert.are.equal("moonrise: 1 passed, 1 failed, 0 skipped",
            (run(suites, { MOONRISE_LANES = "1" })))
    end)

    it("ends a suite that hangs, and what it started", function()
        local mark = place:path("started")
        local last, _, out = run({ a = ("echo 1..1; cd $TMPDIR; setsid tail -f /dev/null & " ..
            "echo $! >%s; wait"):format(mark) })
        assert.are.equal("moonrise: 0 passed, 1 failed, 0 skipped", last)
        assert.matches("took longer than 1 s", out)
        assert.is_false(place_of.alive(tonumber(place_of.read(mark))))
    end)
end)
