--- The sandbox, attacked: no limit can be passed, and a state that hit one is replaced.
local box_of = require("tests.lib.box")
local mr = require("moonrise")

local box, call, assert_code = box_of.new, box_of.call, box_of.assert_code

describe("an endless attack on a sandbox", function()
    local endless = {
        ["a loop"] = "return function() while true do end end",
        ["a loop around pcall"] = [[return function()
            while true do pcall(function() while true do end end) end
        end]],
        ["pcall of pcall"] = [[return function()
            while true do pcall(pcall, pcall, error) end
        end]],
        ["pcall in a recursion"] = "local function f() while true do pcall(f) end end return f",
        ["pcall where the stack is nearly used up"] = [[
            local function spin() while true do pcall(spin) end end
            local function dive(n) if n == 0 then spin() end return 1 + dive(n - 1) end
            return function()
                for n = 4000, 9000, 7 do pcall(dive, n) end
                while true do end
            end]],
        ["a sort whose comparison never returns"] =
            "return function() table.sort({ 3, 2, 1 }, function() while true do end end) end",
        ["a replacement that never returns"] =
            "return function() return ('x'):gsub('x', function() while true do end end) end",
        ["pcall in a comparison"] = [[return function()
            table.sort({ 3, 2, 1 }, function()
                while true do pcall(error) end
            end)
        end]],
        ["big text again and again"] =
            "return function() local s = ('x'):rep(1e6) while true do local t = s:upper() end end",
        ["big text joined again and again"] =
            "return function() local s = ('x'):rep(9e5) while true do local t = s .. 'y' end end",
        ["long numbers"] = [[return function()
            local s = ('9'):rep(1e6)
            while true do local n = tonumber(s) end
        end]],
        ["numbers read by arithmetic"] =
            "return function() local s = ('9'):rep(1e6) while true do local n = s + 1 end end",
        ["long texts compared"] = [[return function()
            local a, b = ('x'):rep(1e6) .. 'a', ('x'):rep(1e6) .. 'b'
            while true do local less = a < b end
        end]],
        ["long texts sorted"] = [[return function()
            local a, b, t = ('x'):rep(1e6) .. 'a', ('x'):rep(1e6) .. 'b', {}
            for i = 1, 10000 do t[i] = i % 2 == 0 and a or b end
            table.sort(t)
            while true do end
        end]],
        ["insertion at the front"] = [[return function()
            local t = {}
            while true do table.insert(t, 1, 1) end
        end]],
        ["formats"] = [[return function()
            local s = ('x'):rep(1e5)
            while true do local t = ('%s%s%q'):format(s, s, s) end
        end]],
        ["a loop in the chunk itself"] = false,
    }

    for name, source in pairs(endless) do
        it("is ended: " .. name, function()
            if source then
                assert_code("limit", source)
            else
                local _, err = mr.sandbox({ source = "while true do end return 1" })
                assert.equals("limit", err.code)
            end
        end)
    end

    it("ends near its budget, which is processor time", function()
        local best = math.huge
        for _ = 1, 5 do
            local start = mr.clock()
            box("return function() while true do end end"):call()
            best = math.min(best, mr.clock() - start)
        end
        assert.is_true(best >= 50, best)
        assert.is_true(best < 500, best)
    end)
end)

describe("a greedy attack on a sandbox", function()
    local greedy = {
        ["doubling text"] = "return function() local s = 'x' while true do s = s .. s end end",
        ["a table of tables"] =
            "return function() local t = {} while true do t[#t + 1] = {} end end",
        ["a long list"] = "return function() local t = {} for i = 1, 1e9 do t[i] = i end end",
        ["swallowing the error"] = [[return function()
            local t = {}
            for _ = 1, 100 do
                pcall(function() while true do t[#t + 1] = ('x'):rep(1000) .. #t end end)
            end
            return 1
        end]],
        ["concatenation"] = [[return function()
            local t = {}
            for i = 1, 10 do t[i] = ('x'):rep(1e6) end
            return table.concat(t)
        end]],
        ["a replacement that grows"] = [[return function()
            local big = ('y'):rep(1e6)
            return (('x'):rep(100):gsub('x', big))
        end]],
        ["unpack"] = [[return function()
            local function f(...) return f(1, ...) end
            return f()
        end]],
    }

    for name, source in pairs(greedy) do
        it("is ended: " .. name, function()
            local before = collectgarbage("count")
            local value, err = call(source)
            assert.is_nil(value)
            assert.is_true(err.code == "limit" or err.code == "raised", err.code)
            collectgarbage()
            assert.is_true(collectgarbage("count") - before < 1024)
        end)
    end

    it("in the arguments is ended too", function()
        local list = {}
        for i = 1, 100000 do
            list[i] = "text number " .. i
        end
        local _, err = box("return function(x) return 1 end", { memory_bytes = 2 ^ 20 })
            :call(nil, list)
        assert.equals("limit", err.code)
    end)

    it("text is bounded", function()
        assert_code("raised", "return function() local s = ('x'):rep(1e9) return #s end",
            "longer than 1048576")
        assert_code("raised", "return function() local s = ('x'):rep(2^60) return #s end")
        assert.equals(0, call("return function() return #('x'):rep(-1) end"))
        assert.equals(0, call("return function() return #(''):rep(1e9) end"))
    end)
end)

describe("a deep attack on a sandbox", function()
    it("by recursion is an error", function()
        assert_code("raised", "local function f() return 1 + f() end return f", "stack overflow")
        assert_code("raised",
            "local function f() local a, b, c, d = f() return a, b, c, d end return f")
    end)

    it("by callbacks inside callbacks is an error", function()
        assert_code("raised", [[
            local function f() return (('x'):gsub('x', f)) end
            return f]], "nested too deep")
        assert_code("raised", [[
            local function f() table.sort({ 2, 1 }, f) return true end
            return f]], "nested too deep")
        local _, err = call("local function f() local ok, e = pcall(f) error(e, 0) end return f")
        assert.equals("raised", err.code)
        assert.matches("nested too deep", err.message)
    end)

    it("in its source is an error", function()
        for _, word in ipairs({ "(", "{", "a.", "do ", "function() " }) do
            local _, err = mr.sandbox({ source = "return " .. word:rep(5e4), name = "deep.lua" })
            assert.equals("format", err.code)
        end
        local _, err = mr.sandbox({ source = "return 1 --" .. ("x"):rep(2 ^ 20) })
        assert.equals("limit", err.code)
    end)

    it("in its answer is an error", function()
        assert_code("format", "return function() local t = {} t.t = t return t end", "in a cycle")
        assert_code("format", [[return function()
            local t = {}
            for _ = 1, 40 do t = { t } end
            return t
        end]], "nested too deep")
        assert_code("format", [[return function()
            local t = {}
            for _ = 1, 30 do t = { t, t } end
            return t
        end]], "too many values")
    end)

    it("in the arguments is wrong use", function()
        local deep = {}
        for _ = 1, 40 do
            deep = { deep }
        end
        assert.has_error(function()
            box("return function() end"):call(nil, deep)
        end)
    end)
end)

describe("a pattern in a sandbox", function()
    it("works on the texts of everyday", function()
        assert.same({ "sdw1", "6000" }, call([[return function()
            return { ("sdw1:6000"):match("^(%w+):(%d+)$") }
        end]]))
        assert.equals(3, call([[return function()
            local n = 0
            for _ in ("a, b,c"):gmatch("[^,%s]+") do n = n + 1 end
            return n
        end]]))
        assert.equals("x-y", call("return function() return (('x y'):gsub('%s+', '-')) end"))
        assert.equals(3, call("return function() return (('a.b'):rep(50):find('b', 1, true)) end"))
    end)

    it("that would take too long is refused", function()
        for _, expression in ipairs({
            "s:find('.-.-.-b')", "s:match('(a*)*b')", "s:match('a*a*a*a*a*b')",
            "s:gsub('.-.-.-b', '')", "s:gmatch('.-.-.-.-b')()", "string.find(s, '.+.+.+b')",
            "s:match('%bab%bab%bab')", "s:find(('a?'):rep(30) .. ('a'):rep(30))",
            "s:find(s:rep(9):sub(1, 60000) .. 'b', 1, true)",
        }) do
            local value, err = call(([[return function()
                local s = ('a'):rep(20000)
                local r = %s
                return 'done'
            end]]):format(expression))
            assert(value == "done" or err.code == "raised", expression)
            if expression:match("%.") then
                assert.matches("too much work", err.message)
            end
        end
    end)

    it("cannot hide its work behind delimiters or an anchor that is none", function()
        for _, expression in ipairs({
            "('[' .. s):find('^%b[a' .. ('.*'):rep(4) .. 'z')",
            "('^'):rep(1000):gmatch('^.*.*z')()",
        }) do
            assert_code("raised", ([[return function()
                local s = ('a'):rep(200)
                return (%s)
            end]]):format(expression), "too much work")
        end
        assert.equals("(x)", call("return function() return ('a(x)b'):match('%b()') end"))
        assert.has_no_error(function()
            call("return function() return ('a(x)b'):match('%b') end")
        end)
    end)

    it("is bounded again whenever an iterator is called", function()
        assert_code("limit", [[return function()
            local next_one = ('a'):rep(1900):gmatch('.*b')
            return (('x'):rep(3000):gsub('x', next_one))
        end]])
    end)

    it("that is at its bound keeps the budget", function()
        local start = mr.clock()
        local value = call([[return function()
            return (('a'):rep(1990):find('.-b')) or 'none'
        end]])
        assert.equals("none", value)
        assert.is_true(mr.clock() - start < box_of.TOO_LONG_MS)
    end)
end)

describe("a format in a sandbox", function()
    it("shows no address", function()
        assert.equals("table function true nil 007 %p x", call([[return function()
            return ("%s %s %s %s %03d %%p %s"):format({}, pairs, true, nil, 7, "x")
        end]]))
        for _, form in ipairs({ "%p", "%-20p", "%s%p", "\\0%p", "%%%p" }) do
            assert_code("raised", ("return function() return ('%s'):format('x', 'y') end")
                :format(form), "address")
        end
    end)
end)

describe("sort in a sandbox", function()
    it("sorts as table.sort does, and is stable", function()
        for n = 0, 40 do
            local given, expected = {}, {}
            for i = 1, n do
                given[i] = (i * 7919) % 23
                expected[i] = given[i]
            end
            table.sort(expected)
            assert.same(expected, call("return function(t) table.sort(t) return t end", given))
        end
        assert.same({ { 1, "a" }, { 1, "b" }, { 2, "c" }, { 2, "d" } }, call([[return function()
            local t = { { 2, "c" }, { 1, "a" }, { 2, "d" }, { 1, "b" } }
            table.sort(t, function(x, y) return x[1] < y[1] end)
            return t
        end]]))
    end)

    it("ends with any comparison and keeps every item", function()
        for _, body in ipairs({ "return true", "return false", "return a ~= b" }) do
            local got = call(([[return function()
                local t = {}
                for i = 1, 200 do t[i] = i end
                table.sort(t, function(a, b) %s end)
                return t
            end]]):format(body))
            table.sort(got)
            for i = 1, 200 do
                assert.equals(i, got[i])
            end
        end
    end)

    it("refuses too many items", function()
        assert_code("raised", [[return function()
            local t = {}
            for i = 1, 10001 do t[i] = i end
            table.sort(t)
        end]], "more than 10000 items")
    end)
end)

describe("a state that hit a limit", function()
    it("is replaced by the next call, and what it kept is gone", function()
        local sandbox = box([[
            local calls = 0
            return { count = function() calls = calls + 1 return calls end,
                     spin = function() while true do end end,
                     eat = function() local t = {} while true do t[#t + 1] = { t } end end }]])
        assert.equals(1, sandbox:call("count"))
        assert.equals(2, sandbox:call("count"))
        for _, name in ipairs({ "spin", "eat" }) do
            assert.equals("limit", select(2, sandbox:call(name)).code)
            assert.equals(1, sandbox:call("count"))
        end
        assert.equals("limit", select(2, sandbox:call("spin")).code)
        assert.is_true(sandbox:has("eat"))
    end)

    it("leaves no memory behind", function()
        local function resident()
            return tonumber((mr.read_file("/proc/self/statm")):match("^%d+ (%d+)")) * 4096
        end
        local sandbox = box([[return function()
            local t = {}
            while true do t[#t + 1] = { t } end
        end]], { memory_bytes = 2 ^ 22 })
        local before = resident()
        for _ = 1, 200 do
            assert.equals("limit", select(2, sandbox:call()).code)
        end
        -- Half of what would be left; AddressSanitizer keeps 256 MiB of freed memory to itself.
        assert.is_true(resident() - before < 400 * 2 ^ 20)
    end)

    it("does not survive an error that was caught inside", function()
        local _, err = call([[return function()
            local t = {}
            local ok = pcall(function() while true do t[#t + 1] = ('x'):rep(1e5) .. #t end end)
            t = nil
            return ok
        end]])
        assert.equals("limit", err.code)
    end)
end)

describe("many calls of a sandbox", function()
    it("do not fill its memory", function()
        local sandbox = box([[return function(facts)
            local names = {}
            for i = 1, #facts do names[i] = facts[i].name .. '!' end
            return { names = names }
        end]], { memory_bytes = 2 ^ 20 })
        local facts = {}
        for i = 1, 50 do
            facts[i] = { name = "instance " .. i, lag = i }
        end
        for _ = 1, 2000 do
            assert.equals("instance 50!", mr.check(sandbox:call(nil, facts)).names[50])
        end
    end)
end)
