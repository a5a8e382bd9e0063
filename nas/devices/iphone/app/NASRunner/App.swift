// The app around Runner.swift: a line of text on a screen that stays awake.
//
// nas/devices/iphone builds it. By hand, from the folder of the .xcodeproj:
//
//     xcodebuild -project NASRunner.xcodeproj -scheme NASRunner -destination platform=iOS,id=UDID \
//         -allowProvisioningUpdates DEVELOPMENT_TEAM=TEAM PRODUCT_BUNDLE_IDENTIFIER=IDENTIFIER build

import SwiftUI
import UIKit

@main
struct NASRunnerApp: App {
    init() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        Task.detached(priority: .userInitiated) {
            await obey(arguments)
        }
    }

    var body: some Scene {
        WindowGroup {
            Text("nas measures here.\nLeave this app in front and the phone unlocked.")
                .multilineTextAlignment(.center)
                .padding()
                // A phone that locks itself stops the app, and cannot be launched on again by the Mac.
                .onAppear { UIApplication.shared.isIdleTimerDisabled = true }
        }
    }
}
