--- What the program says to somebody who does not read.
local mr = require("moonrise")

local place_of = require("tests.lib.place")

describe("a reader that has stopped", function()
    local place

    setup(function()
        place = place_of.new()
    end)

    teardown(place_of.close_all)

    -- Runs code with a stream of its output in a pipe that nobody else reads; arg[1] is the pipe.
    local function run(name, stream, code)
        local script = place:write(name .. ".lua", ([[
            local mr = require("moonrise")
            return { summary = "speaks", log = false, arguments = 2, main = function(_, arg)
                local function read(filter)
                    return mr.run({ "sh", "-c", "{ " .. filter .. "; } <\"$1\"", "sh", arg[1] })
                        .stdout
                end
                %s
                return 0
            end }]]):format(code))
        local said = place:path(name .. ".said")
        local program = place:run({ "bash", "-c", 'mkfifo "$3" && exec 3<>"$3" && "$1" run "$2" ' ..
            '"$3" "$4" ' .. stream .. ">&3", "bash", place_of.moonrise(), script,
            place:path(name .. ".pipe"), said }, { timeout_s = 20 })
        return program.code, mr.read_file(said), program
    end

    it("does not stop the loop, and gets all of standard output", function()
        local code, said = run("all", 1, [[
            mr.out(("x"):rep(300000))
            mr.out("end\n")
            mr.write_file(arg[2], read("head -c 300004 | md5sum"))]])
        assert.equals(0, code)
        local expected = place:must({ "md5sum" }, { stdin = ("x"):rep(300000) .. "end\n" })
        assert.equals(expected, said)
    end)

    it("gets what came while a thread wrote, every time", function()
        local code, said = run("between", 1, [[
            for _ = 1, 40 do
                mr.out(("x"):rep(70000))
                mr.out("end\n")
                mr.append_file(arg[2], read("head -c 70004 | tail -c 4 | head -c 3"))
            end]])
        assert.equals(0, code)
        assert.equals(("end\n"):rep(40), said)
    end)

    it("is told what it missed on standard error", function()
        local code, said = run("missed", 2, [[
            for _ = 1, 3000 do mr.err(("x"):rep(1023) .. "\n") end
            mr.write_file(arg[2], read("sed '/not written/q' | tail -n 1"))]])
        assert.equals(0, code)
        local missed = tonumber((said or ""):match("^moonrise: (%d+) messages were not written\n$"))
        assert.is_true(missed and missed > 1500 and missed < 2500, said)
    end)
end)
